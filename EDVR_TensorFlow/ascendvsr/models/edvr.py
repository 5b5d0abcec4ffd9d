"""EDVR: video restoration with enhanced deformable convolutions (Wang et al., arXiv:1905.02716), x4.

    network = EDVR(num_frames=5, mid_channels=64)
    sr = network.sr(frames)    # [N,5,H,W,3] to [N,4H,4W,3] of the middle frames, RGB in 0..1

The pyramid, cascading and deformable alignment (PCD, figure 3 of the paper) brings the features of every frame to the
middle one, temporal and spatial attention (TSA, figure 4) fuses them, residual blocks make the picture of them. Names
of the variables are those of the released port; conventions.py has what it computes otherwise than the authors.
"""
import tensorflow.compat.v1 as tf

from ascendcv.layers.convolution import Builtin
from ascendvsr.models.conventions import CONVENTIONS, resize
from ascendvsr.models.layers import SCOPE, check_size, layers

SCALE = 4
MULTIPLE = 4  # of the sides of pictures; others are padded by reflection, and cropped
LEVELS = (1, 2, 3)


def activated(x):
    return tf.nn.leaky_relu(x, 0.1)


class EDVR:
    """The variables of a network in the current graph, and functions of them.

    num_frames: of a window, odd; mid_channels: of features; num_deform_groups: groups of channels that deformable
    convolutions move by themselves; num_blocks_extraction, num_blocks_reconstruction: residual blocks; with_tsa: False
    for a 1x1 convolution in place of TSA; compat: 'paper' or 'port'; upsampling: of features and of the picture,
    'bilinear' or 'bicubic'. conv: how layers are computed. ValueError: sizes that cannot be.
    """

    def __init__(self, num_frames=5, mid_channels=64, num_deform_groups=8, num_blocks_extraction=5,
                 num_blocks_reconstruction=10, with_tsa=True, compat='paper', upsampling='bilinear', conv=None):
        self.size = {
            'num_frames': num_frames, 'mid_channels': mid_channels, 'num_deform_groups': num_deform_groups,
            'num_blocks_extraction': num_blocks_extraction, 'num_blocks_reconstruction': num_blocks_reconstruction,
            'with_tsa': with_tsa, 'compat': compat, 'upsampling': upsampling}
        check_size(**self.size)
        self.frames, self._groups = num_frames, num_deform_groups
        self._blocks = {'extraction': num_blocks_extraction, 'reconstruction': num_blocks_reconstruction}
        self._with_tsa, self._method, self._conventions = with_tsa, upsampling, CONVENTIONS[compat]
        self._conv = conv or Builtin()
        self.offsets = []  # mean absolute offset of every deformable convolution that was built, pixels
        with tf.variable_scope(SCOPE):
            self._variables = {
                name: [tf.get_variable(f'{name}/{part}', shape, tf.float32, tf.zeros_initializer())
                       for part, shape in parts.items()] for name, parts in layers(**self.size).items()}

    @property
    def variables(self):
        """All of them, in the order in which they are used."""
        return [variable for pair in self._variables.values() for variable in pair]

    def sr(self, frames):
        """The middle frames upscaled, float32 [N,4H,4W,3], not clipped; frames: float32 [N,T,H,W,3], RGB in 0..1."""
        shape = tf.shape(frames)
        lr = padded(tf.reshape(frames, [-1, shape[2], shape[3], 3]))
        sr = self.restore(self.features(lr), lr[self.frames // 2::self.frames])
        return sr[:, :SCALE * shape[2], :SCALE * shape[3]]

    def features(self, lr):
        """The pyramid of each picture: [level 1, of half, of quarter size] in the layout of conv.

        lr: [N,H,W,3], sides multiples of 4. Frames of overlapping windows need it once.
        """
        x = activated(self._convolve(self._conv.enter(lr), 'extraction/conv_first'))
        levels = [self._residual(x, 'extraction')]
        for level in LEVELS[1:]:
            x = activated(self._conv.convolve_halving(
                levels[-1], *self._variables[f'extraction/feat_l{level}_conv1'], self._conventions.before))
            levels.append(activated(self._convolve(x, f'extraction/feat_l{level}_conv2')))
        return levels

    def restore(self, levels, lr):
        """The picture [N,4H,4W,3] from features() of N windows, [N*T,...], and their middle frames lr [N,H,W,3]."""
        aligned = self.align(levels, [level[self.frames // 2::self.frames] for level in levels])
        fused = self.fuse(aligned)
        return self.reconstruct(fused) + resize(lr, SCALE, self._method, self._conventions)

    def align(self, levels, middle):
        """PCD: features [N*T,...] of level 1, moved to where the middle frame has them."""
        offset = feature = None
        for level in reversed(LEVELS):
            scope, x = f'pcd_align/level{level}', levels[level - 1]
            found = activated(self._with_middle(x, middle[level - 1], f'{scope}/offset_conv1'))
            if offset is not None:
                found = self._concat([found, 2 * self._enlarged(offset)])
            offset = activated(self._convolve(found, f'{scope}/offset_conv2'))
            if feature is not None:
                offset = activated(self._convolve(offset, f'{scope}/offset_conv3'))
            moved = self._deform(x, offset, f'{scope}/dcn_l{level}')
            if feature is not None:
                moved = self._convolve(self._concat([moved, self._enlarged(feature)]), f'{scope}/feat_conv')
            feature = activated(moved) if level > 1 else moved
        offset = activated(self._with_middle(feature, middle[0], 'pcd_align/cas_offset_conv1'))
        offset = activated(self._convolve(offset, 'pcd_align/cas_offset_conv2'))
        return activated(self._deform(feature, offset, 'pcd_align/dcn_cas'))

    def fuse(self, aligned):
        """TSA: [N*T,...] of align() to [N,...]."""
        if not self._with_tsa:
            return self._convolve(self._conv.side_by_side(aligned, self.frames), 'fusion')
        joined = self._conv.side_by_side(self._weighted(aligned), self.frames)
        feature = activated(self._convolve(joined, 'tsa_fusion/feat_fusion'))
        x = activated(self._convolve(joined, 'tsa_fusion/spatial_attn1'))
        x = activated(self._convolve(self._pooled(x), 'tsa_fusion/spatial_attn2'))
        small = activated(self._convolve(x, 'tsa_fusion/spatial_attn_l1'))
        small = activated(self._convolve(self._pooled(small), 'tsa_fusion/spatial_attn_l2'))
        small = self._enlarged(activated(self._convolve(small, 'tsa_fusion/spatial_attn_l3')))
        x = tf.cast(activated(self._convolve(x, 'tsa_fusion/spatial_attn3')), tf.float32) + small
        x = self._enlarged(activated(self._convolve(x, 'tsa_fusion/spatial_attn4')))
        attention = self._convolve(x, 'tsa_fusion/spatial_attn5')
        added = activated(self._convolve(attention, 'tsa_fusion/spatial_attn_add1'))
        gate = tf.sigmoid(tf.cast(self._conventions.gate(attention, added), tf.float32))
        added = tf.cast(self._convolve(added, 'tsa_fusion/spatial_attn_add2'), tf.float32)
        return tf.cast(feature, tf.float32) * gate * 2 + added

    def reconstruct(self, fused):
        """[N,4H,4W,3] that is added to the enlarged picture."""
        x = self._residual(fused, 'reconstruction')
        for stage in (1, 2):
            x = self._conv.depth_to_space(self._convolve(x, f'reconstruction/upsample{stage}'))
            x = self._conventions.shuffled(x)
        x = activated(self._convolve(x, 'reconstruction/conv_hr'))
        return self._conv.leave(self._convolve(x, 'reconstruction/conv_last'))

    def _convolve(self, x, name):
        return self._conv.convolve(x, *self._variables[name])

    def _concat(self, tensors):
        return tf.concat([tf.cast(tensor, tf.float32) for tensor in tensors], self._conv.axis)

    def _enlarged(self, x):
        x = resize(tf.cast(self._conv.leave(x), tf.float32), 2, self._method, self._conventions)
        return self._conv.enter(x)

    def _pooled(self, x):
        return self._conv.enter(tf.concat(self._conventions.pools(self._conv.leave(x)), 3))

    def _windows(self, x):
        """[N*T,...] to [N,T,...]."""
        return tf.reshape(x, tf.concat([[-1, self.frames], tf.shape(x)[1:]], 0))

    def _residual(self, x, scope):
        x = tf.cast(x, tf.float32)
        for block in range(1, self._blocks[scope] + 1):
            inner = tf.nn.relu(self._convolve(x, f'{scope}/ResBlock/conv{block}a'))
            x = x + tf.cast(self._convolve(inner, f'{scope}/ResBlock/conv{block}b'), tf.float32)
        return x

    def _with_middle(self, x, middle, name):
        """The convolution of each frame's features [N*T,...] behind which the middle frame's [N,...] stand."""
        return self._conv.convolve_with(x, middle, self.frames, *self._variables[name])

    def _deform(self, x, offset, name):
        kernel, bias = self._variables[name]
        found = tf.cast(self._convolve(offset, f'{name}/conv_offset'), tf.float32)
        offsets, factors = tf.split(found, [18 * self._groups, 9 * self._groups], self._conv.axis)
        self.offsets.append(tf.reduce_mean(tf.abs(offsets)))
        sampling = tf.concat([offsets, tf.sigmoid(factors)], self._conv.axis)
        return self._conv.deform(x, sampling, kernel, bias, self._groups)

    def _weighted(self, aligned):
        """Every frame's features times their likeness to the middle frame's, [N*T,...]."""
        middle = self._convolve(aligned[self.frames // 2::self.frames], 'tsa_fusion/temporal_attn1')
        each = self._windows(tf.cast(self._convolve(aligned, 'tsa_fusion/temporal_attn2'), tf.float32))
        alike = tf.reduce_sum(each * tf.cast(middle, tf.float32)[:, None], self._conv.axis + 1, keepdims=True)
        return tf.reshape(tf.sigmoid(alike) * self._windows(aligned), tf.shape(aligned))


def padded(lr):
    """[N,H,W,C] continued by reflection, after its last row and column, to multiples of 4."""
    for axis in (1, 2):
        length = tf.shape(lr)[axis]
        places = tf.range((length + MULTIPLE - 1) // MULTIPLE * MULTIPLE)
        period = tf.maximum(2 * length - 2, 1)
        lr = tf.gather(lr, tf.minimum(places % period, (period - places % period) % period), axis=axis)
    return lr
