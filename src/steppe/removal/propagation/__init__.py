"""The rules by which labels of channels pass through the operations of torch."""
