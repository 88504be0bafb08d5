"""All measurements on an accelerator, as one command within a time limit."""
