"""What users do around a recipe: predict, doctor."""
