"""What a finished run weighs and how fast it is, in every form in which it can leave."""
