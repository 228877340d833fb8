"""The bundled vision-language model: a small LLaVA on SmolLM2, made by this project from registry packages.

``tower`` is the vision tower, ``load`` puts the model together from the weights that ship with the package, and the
other files rebuild those weights (``python -m experiments.build_bundled_vlm``).
"""
