"""What sessions on each device are like, which precisions it has, and which GPU a process sees."""
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from google.protobuf import text_format

from common.tf import devices
from models.convolution import Builtin
from models.session_config import Device, open_device, tf

RELEASED = '''graph_options { rewrite_options { remapping: OFF memory_optimization: MANUAL custom_optimizers {
  name: "NpuOptimizer"
  parameter_map { key: "precision_mode" value { s: "allow_mix_precision" } }
  parameter_map { key: "dynamic_input" value { b: true } }
  parameter_map { key: "dynamic_graph_execute_mode" value { s: "lazy_recompile" } } } } }'''
FLAGS = {'avx512_bf16': {'fpu', 'avx512_bf16'}, 'none': {'fpu', 'avx2'}}


def same(config, text):
    return config == text_format.Parse(text, tf.ConfigProto())


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ('RANK_ID', 'RANK', 'RANK_SIZE', 'WORLD_SIZE', 'CUDA_VISIBLE_DEVICES'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def processor(monkeypatch):
    """processor(name): the flags that the processor has from now on."""
    return lambda name: monkeypatch.setattr(devices, 'processor_flags', lambda: FLAGS[name])


def test_an_npus_session_is_the_released_one():
    assert same(Device('npu', 'mixed').config(), RELEASED)
    several = Device('npu', 'mixed').config(8)
    options = several.graph_options.rewrite_options.custom_optimizers[0].parameter_map
    assert options.pop('hcom_parallel').b and same(several, RELEASED)
    exact = Device('npu', 'fp32').config()
    assert same(exact, RELEASED.replace('allow_mix_precision', 'must_keep_origin_dtype'))


def test_sessions_of_gpus_and_cpus(monkeypatch):
    assert same(Device('gpu').config(), 'allow_soft_placement: true gpu_options { allow_growth: true }')
    assert same(Device('gpu', 'mixed').config(8), 'allow_soft_placement: true gpu_options { allow_growth: true } '
                'graph_options { rewrite_options { auto_mixed_precision: ON } }')
    assert same(Device('cpu', 'bf16').config(), 'allow_soft_placement: true device_count { key: "GPU" value: 0 }')
    monkeypatch.setattr(devices, 'processors', lambda: 9)
    for ranks, threads in ((1, 0), (2, 4), (16, 1)):  # 0: TensorFlow takes all
        assert Device('cpu', 'fp32').config(ranks).intra_op_parallelism_threads == threads


@pytest.mark.skipif(not devices.MIXED_ON_CPU, reason='TensorFlow 1.15 does not compute in bfloat16 on CPUs')
def test_16_bits_on_a_cpu(processor):
    rewriting = Device('cpu', 'mixed').config().graph_options.rewrite_options
    assert [field.name for field, _ in rewriting.ListFields()] == [devices.MIXED_ON_CPU]
    processor('avx512_bf16')
    assert [open_device('cpu', precision).precision for precision in ('bf16', 'mixed')] == ['bf16', 'mixed']
    processor('none')
    for precision in ('bf16', 'mixed'):
        with pytest.raises(ValueError, match=f'--precision={precision}: this processor has no instructions'):
            open_device('cpu', precision)


@pytest.mark.skipif(bool(devices.MIXED_ON_CPU), reason='TensorFlow 1.15 alone')
@pytest.mark.parametrize('precision', ['bf16', 'mixed'])
def test_16_bits_are_not_for_an_old_tensorflow(precision, processor):
    processor('avx512_bf16')
    with pytest.raises(ValueError, match=f'--precision={precision} needs TensorFlow 2.4 or later on cpu, this is 1.15'):
        open_device('cpu', precision)


def test_the_usual_precision():
    assert [devices.chosen_precision(kind, '') for kind in ('npu', 'gpu', 'cpu')] == ['mixed', 'fp32', 'fp32']
    assert devices.chosen_precision('gpu', 'mixed') == 'mixed' and devices.chosen_precision('npu', 'fp32') == 'fp32'
    for kind, precision, words in (('npu', 'bf16', 'not on an NPU'), ('cpu', 'fp64', "'fp64'; known: fp32, bf16")):
        with pytest.raises(ValueError, match=words):
            devices.chosen_precision(kind, precision)


def test_devices(monkeypatch):
    there = {'cpu'}
    monkeypatch.setattr(devices, 'available', there.__contains__)
    assert open_device() == Device('cpu', 'fp32', 'auto')
    for name in ('gpu', 'npu'):
        with pytest.raises(ValueError, match=f'--device={name}: TensorFlow .* finds none here; .* --device=cpu'):
            open_device(name)
    with pytest.raises(ValueError, match="unknown device 'tpu'; known: auto, cpu, gpu, npu"):
        open_device('tpu')
    there.add('gpu')
    assert open_device('auto', kernels='builtin') == Device('gpu', 'fp32', 'builtin')
    there.add('npu')
    assert open_device() == Device('npu', 'mixed', 'auto')


def test_an_npu_is_there_when_its_files_and_its_adapter_are(monkeypatch):
    monkeypatch.setattr(os, 'listdir', lambda folder: {'/dev': ['null', 'davinci_manager']}[folder])
    assert not devices.available('npu')
    monkeypatch.setattr(os, 'listdir', lambda folder: {'/dev': ['davinci_manager', 'davinci0']}[folder])
    monkeypatch.setitem(sys.modules, 'npu_bridge', None)
    assert not devices.available('npu')
    for name in ('npu_bridge', 'npu_bridge.npu_init'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert devices.available('npu')


@pytest.mark.parametrize('asked, before, rank, ranks, after', [
    ('', None, 0, 1, None), ('', '2,3', 0, 1, '2,3'), ('-1', '2', 0, 1, '-1'), ('1', None, 0, 1, '1'),
    ('', None, 3, 8, '3'), ('', '4,5', 1, 2, '5'), ('4,5', '0', 0, 2, '4'), ('-1', None, 1, 2, '-1')])
def test_which_gpus_a_process_sees(asked, before, rank, ranks, after, monkeypatch):
    for name, value in (('CUDA_VISIBLE_DEVICES', before), ('RANK_ID', rank), ('RANK_SIZE', ranks)):
        if value is not None:
            monkeypatch.setenv(name, str(value))
    open_device('cpu', cuda_device=asked)
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == after
    open_device('cpu', cuda_device=asked)  # as validation within a training does
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == after


def test_kernels(monkeypatch):
    assert isinstance(Device('gpu', 'fp32', 'auto').convolutions(), Builtin)
    assert isinstance(Device('cpu', 'bf16', 'auto').convolutions(), Builtin)
    with pytest.raises(ValueError, match='--kernels=native: written for the CPU in fp32, not for cpu in bf16'):
        Device('cpu', 'bf16', 'native').convolutions()


def test_kernels_that_cannot_be_compiled(monkeypatch, capsys):
    def refuse():
        raise ValueError('no compiler')
    monkeypatch.setattr(devices.native, 'open_library', refuse)
    assert isinstance(Device('cpu', 'fp32', 'auto').convolutions(), Builtin)
    assert capsys.readouterr().out == "note: TensorFlow's own convolutions are used: no compiler\n"
    with pytest.raises(ValueError, match='no compiler'):
        Device('cpu', 'fp32', 'native').convolutions()


def test_it_is_printed():
    def printed(*words):
        done = subprocess.run([sys.executable, '-m', 'models.session_config', *words], capture_output=True,
                              text=True, cwd=str(Path(__file__).parents[1]))
        return done.returncode, done.stdout, done.stderr
    status, output, errors = printed('npu')
    assert (status, errors) == (0, '') and same(text_format.Parse(output, tf.ConfigProto()), RELEASED)
    status, output, errors = printed('npu', '--precision=bf16')
    assert (status, output) == (2, '') and errors == (
        'error: --precision=bf16: not on an NPU; mixed computes in 16 bit there\n')
