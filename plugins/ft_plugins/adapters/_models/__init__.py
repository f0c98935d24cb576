"""Models that a run alone imports: they need peft."""
