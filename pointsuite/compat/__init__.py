"""What lets PyTorch Geometric's operators on points run from wheels."""
