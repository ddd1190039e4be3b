"""Layers of two to five taps, for `python -m clconv benchmark --layers tools/bench/short_filters.py
--against exact`: what Winograd's transforms gain."""

# name, batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
LAYERS = [
    ("whisper_conv1", 1, 80, 3000, 384, 3, 1, 1, 1, 1),
    ("whisper_conv2", 1, 384, 3000, 384, 3, 2, 1, 1, 1),
    ("wavenet_dil512", 1, 64, 16000, 128, 2, 1, 0, 512, 1),
    ("wav2vec2_conv2", 1, 512, 7999, 512, 3, 2, 0, 1, 1),
    ("encodec_down", 1, 32, 48000, 64, 4, 2, 1, 1, 1),
    ("dense_32", 8, 32, 4000, 32, 3, 1, 1, 1, 1),
    ("dense_64", 8, 64, 1000, 64, 3, 1, 1, 1, 1),
    ("dense_256", 4, 256, 800, 256, 3, 1, 1, 1, 1),
    ("dense_512", 1, 512, 1500, 512, 3, 1, 1, 1, 1),
    ("two_taps_256", 2, 256, 1500, 256, 2, 1, 0, 1, 1),
    ("dilated_256", 4, 256, 800, 256, 3, 1, 3, 3, 1),
    ("strided_128", 8, 128, 1000, 128, 5, 2, 2, 1, 1),
]
