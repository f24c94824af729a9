"""What is encoded, in which order, to score one labelling; numpy only."""
