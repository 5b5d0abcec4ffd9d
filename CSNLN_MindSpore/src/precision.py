"""The levels of mixed precision: what is computed in 16 bits. Weights, gradients, loss and Adam stay in 32."""

LEVELS = {'O0': 'all in float32', 'O1': 'convolutions in float16',
          'O2': "convolutions and the attention's products in float16",
          'O3': 'the same as O2, since CSNLN has no normalisation', 'auto': 'the same as O2'}
