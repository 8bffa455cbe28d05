"""The screen: panels that show what finetune_core knows, and never import torch."""
