"""A small vision-language model that can see what the perception tasks ask about, made from registry packages.

The bundled pair knows drawings by name and little of where, how many or how far. This one is the other way round: a
transformer tower on ImageNet features at three resolutions, and a decoder of its own that reads SmolLM2's tokens.
"""
