"""Training for real: settings, records, the PyTorch trainer, imports."""
