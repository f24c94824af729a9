"""Training on found labels: fine-tuning, reward models, reinforcement learning."""
