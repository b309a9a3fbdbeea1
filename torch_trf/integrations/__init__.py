"""Where scores meet training: torchmetrics, hooks on a model's forward pass, Lightning.

Each module is imported by its name, because each needs packages that take their time to import.
"""
