"""What accelerators put into a model. Imported only inside a run: this package may import torch and peft."""
