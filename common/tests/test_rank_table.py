import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.rank_table import device_ids

ROOT = Path(__file__).resolve().parents[2]


def table(*devices, machines=('10.0.0.1',)):
    """A table of version 1.0; devices: of rank 0, 1, ..., dealt out to the machines in turn."""
    servers = [{'server_id': machine, 'device': []} for machine in machines]
    for rank, device in enumerate(devices):
        servers[rank % len(servers)]['device'].append(
            {'device_id': str(device), 'device_ip': '192.1.2.3', 'rank_id': str(rank)})
    return {'version': '1.0', 'server_count': str(len(machines)), 'server_list': servers, 'status': 'completed'}


def earlier(*devices):
    """The form before version 1.0, its instances in reverse."""
    instances = [{'devices': [{'device_id': str(device), 'device_ip': '192.1.2.3'}], 'rank_id': str(rank),
                  'server_id': '10.0.0.1'} for rank, device in enumerate(devices)]
    return {'board_id': '0x0000', 'chip_info': '910', 'group_count': '1', 'status': 'completed',
            'group_list': [{'device_num': str(len(devices)), 'group_name': '', 'instance_list': instances[::-1]}]}


@pytest.mark.parametrize('form', [table, earlier])
@pytest.mark.parametrize('devices', [[0], [0, 1, 2, 3, 4, 5, 6, 7], [5, 4, 7, 6]])
def test_device_ids_in_the_order_of_ranks(form, devices, tmp_path):
    path = tmp_path / 'rank table.json'
    path.write_text(json.dumps(form(*devices)))
    assert device_ids(path) == devices


@pytest.mark.parametrize('content, said', [
    ('{"version": ', 'not a rank table'), ('[]', 'expected server_list'), ('{"server_list": [{}]}', "'device'"),
    (json.dumps(table()), 'the ranks are []'), (json.dumps(table(0, 1, machines='ab')), '2 machines (a, b)'),
    (json.dumps(table(1, 2, 1)), 'the device ids are [1, 2, 1]'),
    (json.dumps(table(0, -1)), 'the device ids are [0, -1]'),
    (json.dumps(table(3, 4)).replace('"rank_id": "1"', '"rank_id": "2"'), r'the ranks are [0, 2]')])
def test_what_is_no_rank_table(content, said, tmp_path):
    (tmp_path / 'table.json').write_text(content)
    with pytest.raises(ValueError) as error:
        device_ids(tmp_path / 'table.json')
    assert said in str(error.value) and 'table.json' in str(error.value)


def test_as_a_program(tmp_path):
    (tmp_path / 'table.json').write_text(json.dumps(table(2, 3)))
    done = subprocess.run([sys.executable, '-m', 'common.rank_table', str(tmp_path / 'table.json')], cwd=str(ROOT),
                          stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, '2,3\n')
