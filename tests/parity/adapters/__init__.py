"""One module a published system. Each has

- `SOURCE`: the start of the packs' `source` field, which names the system whose packs it runs;
- `outputs(pack, weights, inputs)`: build what the pack describes, load its weights, run it, and return
  {output name: array}. Names that are missing there are reported as not computed.
"""
