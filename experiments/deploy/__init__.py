"""The size and the speed of a finished run, in every form in which it can be exported."""
