"""What is learned: a stage a file, its trainer in `_trainers`."""
