"""Layer shapes that real 1-D networks and filters use: the public benchmark set.

Each row: name, batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation,
groups.
"""

# fmt: off
LAYERS = [
    # name                  N   Cin      L   Cout     K  s    p    d     g
    ("seed_example",        1,    1,    10,     2,    2, 1,   0,   1,    1),
    ("wav2vec2_conv0",      1,    1, 80000,   512,   10, 5,   0,   1,    1),
    ("wav2vec2_conv2",      1,  512,  7999,   512,    3, 2,   0,   1,    1),
    ("wav2vec2_pos",        1,  768,   499,   768,  128, 1,  64,   1,   16),
    ("whisper_conv1",       1,   80,  3000,   384,    3, 1,   1,   1,    1),
    ("whisper_conv2",       1,  384,  3000,   384,    3, 2,   1,   1,    1),
    ("wavenet_dil512",      1,   64, 16000,   128,    2, 1,   0, 512,    1),
    ("tasnet_dw_d128",      4,  512,  3200,   512,    3, 1, 128, 128,  512),
    ("tasnet_pw",           4,  128,  3200,   512,    1, 1,   0,   1,    1),
    ("hifigan_c256_k11d5",  1,  256,  2560,   256,   11, 1,  25,   5,    1),
    ("hifigan_c32_k11",     1,   32, 81920,    32,   11, 1,   5,   1,    1),
    ("hifigan_post",        1,   32, 81920,     1,    7, 1,   3,   1,    1),
    ("encodec_in",          1,    1, 48000,    32,    7, 1,   3,   1,    1),
    ("encodec_down",        1,   32, 48000,    64,    4, 2,   1,   1,    1),
    ("quartznet_dw33",     16,  256,   800,   256,   33, 1,  16,   1,  256),
    ("jasper_k11",          4,  256,   800,   256,   11, 1,   5,   1,    1),
    ("mamba_dw4",           1, 2048,  2048,  2048,    4, 1,   3,   1, 2048),
    ("tcn_k7",             32,   25,   784,    25,    7, 1,   6,   1,    1),
    ("inception_k39",      64,   32,   150,    32,   39, 1,  19,   1,    1),
    ("ecg_resnet_k17",     16,   12,  4096,    64,   17, 1,   8,   1,    1),
    ("kimcnn_k5",          50,  300,    56,   100,    5, 1,   0,   1,    1),
    ("basset_k19",         16,    4,  1000,   300,   19, 1,   9,   1,    1),
    ("sincnet_k251",        8,    1, 16000,    80,  251, 1,   0,   1,    1),
    ("fir_k1025",           8,    1, 48000,     1, 1025, 1, 512,   1,    1),
    ("group4_k5",           8,  128,  1024,   128,    5, 1,   2,   1,    4),
    ("stream_small",        1,   64,   128,    64,    3, 1,   1,   1,    1),
]
# fmt: on
