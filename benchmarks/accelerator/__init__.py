"""What is to be measured on an accelerator, as one command within a time limit."""
