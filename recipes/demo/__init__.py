"""The demo recipe: tasks, tokenizer, training and export of the bundled tri-mode checkpoint."""
