"""What measures a model beside its stage."""
