"""What a network is: backbones, the torch module, its quick, folded and exported forms, and its FLOPs."""
