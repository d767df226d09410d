"""Ablations: ways of training (arms) set against each other under equal budgets, with seeds, tuning and tests."""
