"""What is optimised? One file per objective."""
