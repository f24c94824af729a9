"""Labels, reward models, policies and their comparison on movie reviews, in one command."""
