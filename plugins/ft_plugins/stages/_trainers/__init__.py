"""Trainers of stages; imported only once a run builds one."""
