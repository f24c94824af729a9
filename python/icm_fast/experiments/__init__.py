"""The paper's experiments and ours, on any model: searches, baselines, tables, figures."""
