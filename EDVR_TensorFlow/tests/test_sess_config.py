"""What sessions on each device are like, and whose layers a network has; the NPU by a stand-in for its adapter."""
import sys
import types

import numpy as np
import pytest
from conftest import SIZE, call, configure
from google.protobuf import text_format

from ascendcv.layers.convolution import Builtin
from ascendcv.layers.native import Native
from ascendcv.runner.sess_config import Device, device_of, tf
from ascendvsr.models.edvr import EDVR
from common.tf import devices

# as the released port has it, but for iterations_per_loop: of its 10 steps in a session's run, each had the same batch
RELEASED = '''graph_options { rewrite_options { remapping: OFF custom_optimizers {
  name: "NpuOptimizer"
  parameter_map { key: "mix_compile_mode" value { b: false } }
  parameter_map { key: "use_off_line" value { b: true } }
  parameter_map { key: "graph_memory_max_size" value { s: "30064771072" } }
  parameter_map { key: "variable_memory_max_size" value { s: "3221225472" } }
  parameter_map { key: "precision_mode" value { s: "allow_mix_precision" } }
  parameter_map { key: "enable_data_pre_proc" value { b: true } }
  parameter_map { key: "iterations_per_loop" value { i: 1 } } } } }'''
OF_RANKS = ['pruning', 'function', 'constfold', 'shape', 'arithmetic', 'loop', 'dependency', 'layout', 'memory',
            'GradFusionOptimizer']


def same(config, text):
    return config == text_format.Parse(text, tf.ConfigProto())


@pytest.fixture
def adapter(monkeypatch):
    """A stand-in for npu_bridge: .calls of its deformable convolution, an ordinary one of x."""
    calls = []

    def deformable_conv2d(*inputs, **options):
        calls.append((inputs, options))
        return tf.nn.conv2d(inputs[0], inputs[1], [1, 1, 1, 1], 'SAME')
    modules = {name: types.ModuleType(name) for name in (
        'npu_bridge', 'npu_bridge.npu_init', 'npu_bridge.tbe', 'npu_bridge.tbe.npu_cube_ops')}
    modules['npu_bridge.tbe'].npu_cube_ops = modules['npu_bridge.tbe.npu_cube_ops']
    modules['npu_bridge.tbe.npu_cube_ops'].deformable_conv2d = deformable_conv2d
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(calls=calls, npu_init=modules['npu_bridge.npu_init'])


def test_an_npus_session_is_the_released_one():
    assert same(Device('npu', 'mixed').config(), RELEASED)
    assert same(Device('npu', 'fp32').config(), RELEASED.replace('allow_mix_precision', 'must_keep_origin_dtype'))
    several = Device('npu', 'mixed').config(8)
    assert list(several.graph_options.rewrite_options.optimizers) == OF_RANKS
    del several.graph_options.rewrite_options.optimizers[:]
    assert same(several, RELEASED)


def test_the_adapter_has_the_last_word(adapter):
    assert same(Device('npu', 'mixed').config(), RELEASED)  # an older one has none

    def npu_config_proto(config_proto):
        assert same(config_proto, RELEASED)
        config_proto.log_device_placement = True
        return config_proto
    adapter.npu_init.npu_config_proto = npu_config_proto
    assert Device('npu', 'mixed').config().log_device_placement


def test_sessions_of_gpus_and_cpus(monkeypatch):
    gpu = 'allow_soft_placement: true gpu_options { allow_growth: true }'
    assert same(Device('gpu').config(), gpu)
    assert same(Device('gpu', xla=True).config(8),
                gpu + 'graph_options { optimizer_options { global_jit_level: ON_1 } }')
    cpu = 'allow_soft_placement: true device_count { key: "GPU" value: 0 }'
    assert same(Device('cpu').config(), cpu)
    assert same(Device('cpu', training=True).config(), cpu + 'graph_options { rewrite_options { remapping: OFF } }')
    monkeypatch.setattr(devices, 'processors', lambda: 9)
    assert Device('cpu').config(2).intra_op_parallelism_threads == 4


def test_whose_layers(monkeypatch):
    monkeypatch.setattr(devices.native, 'open_library', lambda: None)
    assert isinstance(Device('cpu', 'fp32', 'auto').layers(), Native)
    for device in (Device('cpu', 'fp32', 'builtin'), Device('cpu', 'bf16', 'auto'), Device('gpu', 'fp32', 'auto')):
        assert isinstance(device.layers('tf'), Builtin)
        with pytest.raises(ValueError, match=f'edvr.impl npu: .* but the device is {device.kind}; choose auto'):
            device.layers('npu')


@pytest.mark.parametrize('impl, expected', [('auto', 4), ('npu', 4), ('tf', 0)])
def test_the_operator_of_an_npu(impl, expected, adapter):
    """Every deformable convolution is the operator's: x, kernel, then x offsets, y offsets and factors, of float32."""
    with tf.Graph().as_default():
        EDVR(**SIZE, conv=Device('npu', 'mixed').layers(impl)).sr(tf.zeros([1, 3, 8, 8, 3]))
    assert len(adapter.calls) == expected
    for (x, kernel, sampling), options in adapter.calls:
        assert {tensor.dtype.base_dtype for tensor in (x, kernel, sampling)} == {tf.float32}
        assert [tensor.shape.as_list()[3] for tensor in (x, kernel, sampling)] == [8, 8, 27 * 2]
        assert options == {'strides': [1, 1, 1, 1], 'pads': [1, 1, 1, 1], 'data_format': 'NHWC',
                           'dilations': [1, 1, 1, 1], 'groups': 1, 'deformable_groups': 2}


def test_what_the_operator_is_given(adapter):
    """Inputs of 16 bits are cast, the bias is added behind it; the order of `sampling` is that of dcn.py."""
    x, sampling = (np.random.default_rng(0).standard_normal((1, 3, 4, channels)) for channels in (4, 54))
    kernel, bias = np.zeros((3, 3, 4, 2), np.float32), np.float32([1, 2])
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=devices.base_config('cpu')) as session:
        y = Device('npu', 'mixed').layers().deform(tf.constant(x, tf.float16), tf.constant(sampling, tf.float16),
                                                   tf.constant(kernel), tf.constant(bias), 2)
        given, y = session.run([adapter.calls[0][0], y])
    assert [array.dtype for array in given] == [np.float32] * 3
    for found, expected in zip(given, (x, kernel, sampling)):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.array_equal(y, np.broadcast_to(bias, (1, 3, 4, 2)))


def test_the_device_of_a_configuration(monkeypatch):
    assert device_of(configure(device='cpu')) == Device('cpu', 'fp32', 'auto', training=True)
    monkeypatch.setattr(devices, 'available', {'cpu', 'gpu', 'npu'}.__contains__)
    assert device_of(configure(mode='eval')) == Device('npu', 'mixed', 'auto')
    assert device_of(configure(mode='eval', device='gpu', solver__mix_precision=True, solver__xla=True,
                               solver__kernels='builtin')) == Device('gpu', 'mixed', 'builtin', xla=True)
    with pytest.raises(ValueError, match='bf16: not on an NPU'):
        device_of(configure(device='npu', solver__precision='bf16'))


def test_it_is_printed():
    done = call(sys.executable, '-m', 'ascendcv.runner.sess_config', 'npu')
    assert (done.returncode, done.stderr) == (0, '')
    assert same(text_format.Parse(done.stdout, tf.ConfigProto()), RELEASED)
