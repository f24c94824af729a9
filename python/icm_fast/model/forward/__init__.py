"""One batch of packed segments through a model: natively, on a device, or by transformers."""
