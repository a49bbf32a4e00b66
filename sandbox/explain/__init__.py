"""What the state of a crashed kernel means: the fault, in sentences, each with the command that shows it."""
