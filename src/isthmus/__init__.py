"""Mode connectivity for any PyTorch model."""
