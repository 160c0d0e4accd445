"""What matters? One file per score."""
