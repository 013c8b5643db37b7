"""Models on the disk: what predicts, files, checkpoints, exports, and PyTorch's weights."""
