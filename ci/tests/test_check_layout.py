"""A checkout that is as it should be has no finding; every way to spoil it has the one that names file and line."""
import subprocess
import sys

import pytest

from ci import check_layout, commands

LAUNCHER = '#!/usr/bin/env bash\necho "  --data_path=X  where the data lies"\nexit\n  run "$python" main.py "$@"\n'
PROGRAM = 'if __name__ == "__main__":\n    print("  --scale N")\n'
README = '## ' + '\n\n## '.join(check_layout.HEADINGS) + '''

```bash
cd RCAN_PyTorch/..                    # stays a comment: --no_flag
PYTHON=python3 bash RCAN_PyTorch/test/train_full_1p.sh --data_path=/data \\
  -- --scale=2 && python3 RCAN_PyTorch/main.py --scale 4 --help > log
torchrun --nproc_per_node=2 RCAN_PyTorch/main.py --scale 4
pip install --upgrade pip
```

[a link](run_eval.sh) and `[none](nowhere)`
'''


@pytest.fixture
def root(tmp_path):
    """A checkout of one model directory without a finding."""
    model = tmp_path / 'RCAN_PyTorch'
    files = {name: PROGRAM for name in check_layout.MODELS['RCAN_PyTorch'] if name.endswith('.py')}
    files.update({name: LAUNCHER if name.endswith('.sh') else 'x' for name in check_layout.FILES})
    files.update({'tests/test_x.py': '', 'README.md': README.replace('cd RCAN_PyTorch/..', 'cd ..')})
    for name, content in files.items():
        if '*' not in name:
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_text(content)
    table = subprocess.check_output([sys.executable, check_layout.__file__, '--table'])
    for name in check_layout.TABLES:
        (tmp_path / name).write_bytes(b'# Text\n\n' + table + b'\nbehind it\n')
    return tmp_path


def spoil(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def test_a_good_checkout(root):
    assert list(check_layout.findings(root)) == []


@pytest.mark.parametrize('name', ['main.py', 'run_infer.sh', 'test/train_full_8p.sh', 'requirements.txt'])
def test_a_missing_file(root, name):
    (root / 'RCAN_PyTorch' / 'README.md').write_text('## ' + '\n## '.join(check_layout.HEADINGS))
    (root / 'RCAN_PyTorch' / name).unlink()
    [finding] = check_layout.findings(root)
    assert finding.startswith(f'RCAN_PyTorch: no {name}, ')


@pytest.mark.parametrize('place, old, new, expected', [
    ('test/train_full_1p.sh', 'exit\n', 'exit\n\r\n', 'RCAN_PyTorch/test/train_full_1p.sh:4: a carriage return'),
    ('run_eval.sh', 'exit\n', 'exit\n' + '\n' * 27, 'RCAN_PyTorch/run_eval.sh: 31 lines; a launcher has at most 30'),
    ('run_export.sh', 'exit\n', 'if\n', 'RCAN_PyTorch/run_export.sh: line 5: syntax error'),
    ('README.md', '## Speed', '## Fast', "RCAN_PyTorch/README.md: no heading '## Speed'"),
    ('README.md', '--data_path', '--data_pth', 'README.md:30: RCAN_PyTorch/test/train_full_1p.sh takes no --data_pth'),
    ('README.md', '-- --scale', '-- --scales', 'README.md:30: main.py, which gets what follows --, takes no --scales'),
    ('README.md', 'main.py --scale 4 --help', 'main.py --size', 'README.md:30: RCAN_PyTorch/main.py takes no --size'),
    ('README.md', 'main.py --scale 4\n', 'main.py --fast\n', 'README.md:31: RCAN_PyTorch/main.py takes no --fast'),
    ('README.md', 'bash RCAN_PyTorch/test', 'bash test', 'README.md:30: test/train_full_1p.sh: no such file, from .'),
    ('README.md', '](run_eval.sh)', '](eval.sh#x)', 'RCAN_PyTorch/README.md:35: the link eval.sh#x leads nowhere'),
])
def test_a_spoilt_file(root, place, old, new, expected):
    spoil(root / 'RCAN_PyTorch' / place, old, new)
    [finding] = check_layout.findings(root)
    assert expected in finding


def test_flags_in_the_text_and_its_tables(root):
    readme = root / 'RCAN_PyTorch' / 'README.md'
    spoil(readme, '## Options', '## Options\n\n| `--scale`, `--size` | 2 |\n`-- --data_path=x`, `pip --quiet`')
    spoil(readme, '## Differences from the released port', '## Differences from the released port\n\n`--gone`')
    (readme.parent / 'README_CN.md').write_text('`--scale=4`\n`--scales=4`\n')
    chinese, english = sorted(check_layout.findings(root), reverse=True)
    assert english == 'RCAN_PyTorch/README.md:21: no launcher or program of this directory takes --size'
    assert chinese == 'RCAN_PyTorch/README_CN.md:2: no launcher or program of this directory takes --scales'


def test_headings_out_of_order(root):
    readme = root / 'RCAN_PyTorch' / 'README.md'
    spoil(readme, '## Data\n\n## Training', '## Training\n\n## Data')
    [finding] = check_layout.findings(root)
    assert 'the headings come in the order Overview, Quick start, Training, Data' in finding


def test_the_role_table(root):
    spoil(root / 'README_CN.md', '| train |', '| 训练 |')  # a translated role
    assert list(check_layout.findings(root)) == []
    spoil(root / 'CONTRIBUTING.md', '| model.py |', '| net.py |')
    (root / 'README.md').write_text('no table')
    first, second = check_layout.findings(root)
    assert first.startswith('README.md: no role table') and 'CONTRIBUTING.md: the role table differs' in second


def test_directories_that_are_missing_or_unknown(root):
    with open(root / 'README.md', 'a') as file:
        file.write('```bash\ncd EDSR_MindSpore\nbash run_eval.sh --anything\n```\n')
    assert list(check_layout.findings(root)) == []
    (root / 'SIXTH_Torch').mkdir()
    (root / 'SIXTH_Torch' / 'upscaler.py').touch()
    [finding] = check_layout.findings(root)
    assert finding.startswith('SIXTH_Torch: a model directory that MODELS')


def test_the_program_itself(root):
    def run():
        return subprocess.run([sys.executable, check_layout.__file__, '--root', str(root)], stdout=subprocess.PIPE)
    assert run().returncode == 0
    (root / 'RCAN_PyTorch' / 'device.py').unlink()
    done = run()
    assert done.returncode == 1 and b'RCAN_PyTorch: no device.py' in done.stdout and b'1 findings' in done.stdout


def test_commands_are_read_as_a_shell_reads_them():
    assert list(commands.split("a 'b c' --d=\"e f\" && X=1 python3 y.py --z # --comment")) == [
        ['a', 'b c', '--d=e f'], ['python3', 'y.py', '--z']]
    assert list(commands.split("it's no command")) == []
    torchrun = ['python3.11', '-m', 'torch.distributed.run', '--standalone']
    assert commands.parse([*torchrun, 'main.py', '--a=1', '--', '--b']) == ('main.py', ['--a'], ['--b'])
    assert commands.parse(['echo', 'x.py', '--a']) == commands.parse(['bash', '-c', 'x']) == (None, [], [])


def test_only_marked_blocks_hold_commands(tmp_path):
    text = tmp_path / 'a.md'
    text.write_text('```python\nbash x.sh\n```\n~~~\nbash y.sh\n~~~\n`bash z.sh`\n')
    assert [words for _, _, words in commands.commands(text)] == [['bash', 'y.sh']]
