"""Tests of the comparison engine on a small pair of models that knows no MaskFormer."""
