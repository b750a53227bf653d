"""Other libraries' calls over this package's operators: their names, argument order and defaults, exact values, and no
tables. Where theirs are given cos and sin, a `condensed_rope.Rope` is given.

    from condensed_rope.dropin import flashinfer     # flashinfer.apply_rope_pos_ids_inplace(q, k, pos_ids, rope_scale=8)
"""
