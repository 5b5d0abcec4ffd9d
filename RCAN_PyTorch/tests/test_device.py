"""The branches of device.py, those for GPU and NPU held by recorded stand-ins of torch.cuda and torch_npu.

The stand-ins keep to what the real ones demand: NpuFusedAdam gathers all gradients into one buffer at its first step,
so it refuses zero_grad(set_to_none=True), and gradients must stay where they are.
"""
import re
import sys
import types

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, TINY, flags, python, start

import device
from device import Device, choose, open_device
from main import train_step


class FusedAdam(torch.optim.Adam):
    """The contract of torch_npu.optim.NpuFusedAdam."""

    calls = []

    def __init__(self, parameters, lr=1e-3):
        self.calls.append(('NpuFusedAdam', lr))
        self.buffers = None
        super().__init__(parameters, lr=lr)

    def zero_grad(self, set_to_none=False):
        if set_to_none:
            raise ValueError('set_to_none is not supported in fused optimizers')
        super().zero_grad(set_to_none=False)

    def step(self):
        self.calls.append(('step',))
        places = [p.grad.data_ptr() for group in self.param_groups for p in group['params'] if p.grad is not None]
        self.buffers = self.buffers or places
        assert places == self.buffers, 'a gradient has left the buffer that the fused step reads'
        super().step()


@pytest.fixture
def npu(monkeypatch):
    """torch_npu and torch.npu as recorded stand-ins whose memory is the CPU's; gives the list of calls."""
    calls = []

    def recorded(name, result=None):
        return lambda *args: (calls.append((name, *args)), result)[1]

    def scaler(**settings):
        calls.append(('GradScaler', settings))
        return torch.amp.GradScaler('cpu', **settings)

    package = types.ModuleType('torch_npu')
    package.npu = types.SimpleNamespace(amp=types.SimpleNamespace(GradScaler=scaler))
    package.optim = types.SimpleNamespace(NpuFusedAdam=type('NpuFusedAdam', (FusedAdam,), {'calls': calls}))
    monkeypatch.setitem(sys.modules, 'torch_npu', package)
    monkeypatch.setattr(torch, 'npu', types.SimpleNamespace(
        is_available=recorded('is_available', True), set_device=recorded('set_device'), device_count=lambda: 8,
        synchronize=recorded('synchronize')), raising=False)
    monkeypatch.setitem(device.TORCH_NAMES, 'npu', 'cpu')
    return calls


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda with eight cards of compute capability 8.0, recorded."""
    calls = []
    for name, result in (('is_available', True), ('set_device', None), ('synchronize', None),
                         ('get_device_capability', (8, 0)), ('is_bf16_supported', True), ('device_count', 8)):
        monkeypatch.setattr(torch.cuda, name, lambda *args, _name=name, _result=result, **kwargs:
                            (calls.append((_name, *args)), _result)[1])
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    return calls


@pytest.fixture
def joined(monkeypatch):
    """Records how the process group is joined; this process is then local rank 1 of 4."""
    calls = []
    monkeypatch.setattr(dist, 'init_process_group', lambda backend, **settings: calls.append((backend, settings)))
    for name, value in (('WORLD_SIZE', '4'), ('RANK', '3'), ('LOCAL_RANK', '1')):
        monkeypatch.setenv(name, value)
    return calls


def test_auto_prefers_npu_then_gpu_then_cpu(npu, gpu, monkeypatch):
    assert choose('auto') == 'npu'
    monkeypatch.setattr(torch.npu, 'is_available', lambda: False)
    assert choose('auto') == 'gpu'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert choose('auto') == 'cpu'


def test_auto_without_torch_npu(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch_npu', None)  # import torch_npu raises ImportError
    assert choose('auto') in ('gpu', 'cpu')


def test_opening_an_npu(npu):
    opened = open_device('npu', 3)
    assert opened.kind == 'npu' and opened.torch.index == 3 and (opened.rank, opened.world_size) == (0, 1)
    assert npu == [('is_available',), ('set_device', opened.torch)]
    assert opened.memory_format is torch.contiguous_format
    assert opened.half() is torch.float16 and opened.half('bf16') is torch.bfloat16
    opened.synchronize()
    assert npu[-1] == ('synchronize',)


def test_npu_scales_and_steps_with_torch_npu(npu):
    opened = open_device('npu')
    for loss_scale, settings in ((128.0, {'init_scale': 128.0, 'growth_interval': 2**31 - 1}),
                                 ('dynamic', {'init_scale': 65536.0, 'growth_interval': 2000})):
        opened.scaler(torch.float16, loss_scale)
        assert npu[-1] == ('GradScaler', dict(settings, enabled=True))
    opened.scaler(torch.bfloat16, 128.0)
    assert npu[-1][1]['enabled'] is False
    assert type(opened.adam([torch.nn.Parameter(torch.zeros(1))], 2e-4)).__name__ == 'NpuFusedAdam'
    assert npu[-1] == ('NpuFusedAdam', 2e-4)


def test_npu_autocast_is_torchs_for_npu(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args: args)
    assert Device('npu', None).autocast(torch.float16) == ('npu', torch.float16)
    assert Device('gpu', None).autocast(torch.bfloat16) == ('cuda', torch.bfloat16)


def test_training_on_an_npu(npu, train, tmp_path):
    assert train(device='npu', device_id=1, amp=True, train_steps=3, lr=3e-4) == 0
    order = [call[0] for call in npu if call[0] not in ('is_available', 'synchronize')]
    assert order == ['set_device', 'NpuFusedAdam', 'GradScaler', 'step', 'step', 'step']
    assert npu[0] == ('is_available',) and ('synchronize',) in npu and ('NpuFusedAdam', 3e-4) in npu
    assert next(call[1] for call in npu if call[0] == 'GradScaler') == {
        'init_scale': 128.0, 'growth_interval': 2**31 - 1, 'enabled': True}
    assert train(device='npu', device_id=1, amp=True, train_steps=5, lr=3e-4, ifcontinue=True) == 0
    whole = torch.load(tmp_path / 'out' / 'X2' / 'RCAN_epoch_last_amp.pth')
    assert train(device='npu', device_id=1, amp=True, train_steps=5, lr=3e-4) == 0
    again = torch.load(tmp_path / 'out' / 'X2_2' / 'RCAN_epoch_last_amp.pth')
    assert all(torch.equal(value, again['model'][name]) for name, value in whole['model'].items())


@pytest.mark.parametrize('kind, backend', [('npu', 'hccl'), ('gpu', 'nccl'), ('cpu', 'gloo')])
def test_process_group(kind, backend, npu, gpu, joined):
    opened = open_device(kind, None, [4, 6], join=True)
    assert [call[0] for call in joined] == [backend] and joined[0][1]['timeout'].total_seconds() >= 3600
    assert (opened.rank, opened.world_size) == (3, 4)
    assert opened.torch.index == (None if kind == 'cpu' else 6)
    if kind != 'cpu':
        assert [call for call in (npu + gpu) if call[0] == 'set_device'] == [('set_device', opened.torch)]


def test_local_rank_is_the_device_beyond_the_list(gpu, joined):
    assert open_device('gpu', None, [5], join=True).torch.index == 1
    assert open_device('gpu', None, None, join=True).torch.index == 1


@pytest.mark.parametrize('kind', ['npu', 'gpu', 'cpu'])
def test_parallel_network(kind, monkeypatch):
    monkeypatch.setattr(torch.nn.parallel, 'DistributedDataParallel', lambda network, **settings: (network, settings))
    network = torch.nn.Conv2d(3, 3, 1)
    assert Device(kind, torch.device('cuda', 2)).parallel(network) is network
    wrapped, settings = Device(kind, torch.device('cuda', 2), 0, 8).parallel(network)
    assert wrapped is network and settings['device_ids'] == (None if kind == 'cpu' else [2])
    if kind == 'npu':  # NpuFusedAdam moves gradients into its buffer, out of DDP's buckets
        assert not settings.get('gradient_as_bucket_view', False)


def test_opening_a_gpu(gpu):
    opened = open_device('gpu', 1)
    assert opened.torch == torch.device('cuda', 1) and ('set_device', opened.torch) in gpu
    assert torch.backends.cudnn.benchmark
    assert opened.memory_format is torch.channels_last and opened.half() is torch.bfloat16
    assert opened.half('fp16') is torch.float16
    opened.synchronize()
    assert gpu[-1] == ('synchronize', opened.torch)
    assert opened.adam([torch.nn.Parameter(torch.zeros(1))], 1e-4).defaults['fused']


def test_a_device_that_is_not_there(gpu):
    with pytest.raises(ValueError, match='gpu device 9: this machine has 8'):
        open_device('gpu', 9)


def test_inference_joins_no_process_group(joined):
    assert open_device('cpu').world_size == 1 and not joined


def test_cards_that_only_emulate_bf16_get_fp16(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    assert open_device('gpu').half() is torch.float16


def test_scaler_on_cpu():
    cpu = open_device('cpu')
    assert cpu.half() is torch.bfloat16 and not cpu.scaler(torch.bfloat16, 128.0).is_enabled()
    assert not cpu.scaler(None, 128.0).is_enabled()
    scaler, weight = cpu.scaler(torch.float16, 64.0), torch.nn.Parameter(torch.ones(2))
    optimiser = cpu.adam([weight], 0.1)
    scaler.scale(weight.sum() * float('inf')).backward()
    scaler.step(optimiser)
    scaler.update()
    assert torch.equal(weight.data, torch.ones(2)) and scaler.get_scale() == 32


@pytest.mark.parametrize('name, words', [
    ('npu', ('--device=npu', 'torch_npu', 'CANN', '--device=cpu')),
    ('gpu', ('--device=gpu', 'CUDA', '--device=cpu')), ('tpu', ('tpu', 'auto, cpu, gpu, npu'))])
def test_absent_devices(name, words, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch_npu', None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError) as error:
        open_device(name)
    for word in words:
        assert word in str(error.value)


def test_npu_that_is_not_there_although_torch_npu_is(npu, monkeypatch):
    monkeypatch.setattr(torch.npu, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='--device=npu: none found'):
        open_device('npu')


def test_torch_npu_is_imported_for_auto_and_npu_only(data, tmp_path):
    (tmp_path / 'torch_npu.py').write_text('raise SystemExit("torch_npu was imported")')
    options = dict(TINY, train_dataset_dir=data, outputs_dir=tmp_path / 'out', train_steps=1)
    cpu, auto = (start(sys.executable, 'main.py', *flags(**dict(options, device=name)), PYTHONPATH=str(tmp_path))
                 for name in ('cpu', 'auto'))
    assert 'torch_npu was imported' in auto.communicate(timeout=60)[1]
    assert cpu.communicate(timeout=60)[1].count('torch_npu') == 0 and cpu.returncode == 0


def test_only_device_py_knows_npu_packages():
    naming = re.compile(r'\btorch_npu\b|\btorch\.npu\b|\bnpu_|\bhccl\b')
    files = [path for path in (*ROOT.glob('*.py'), *ROOT.glob('common/*.py'))
             if any(naming.search(line.split('#')[0]) for line in path.read_text().splitlines())]
    assert [path.name for path in files] == ['device.py']


def test_absent_device_on_the_command_line(data, tmp_path):
    done = python('main.py', **dict(TINY, train_dataset_dir=data, outputs_dir=tmp_path / 'out', device='npu'))
    assert done.returncode == 2 and done.stderr.startswith('error: --device=npu') and 'Traceback' not in done.stderr


def test_the_step_leaves_no_gradient_of_the_last_one(train):
    """Twice the same step without an update in between gives the same gradient, not twice it."""
    from main import Model
    torch.manual_seed(0)
    network, cpu = torch.nn.Conv2d(3, 3, 1), open_device('cpu')
    network.rgb_range = 255
    model = Model(cpu, None, network, network, torch.optim.SGD(network.parameters(), lr=0), cpu.scaler(None, 1))
    lr, hr = (torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8) for _ in range(2))
    train_step(model, lr, hr)
    first = network.weight.grad.clone()
    train_step(model, lr, hr)
    assert torch.equal(network.weight.grad, first)
