"""python3 -m common.rank_table RANK_TABLE_FILE

Prints the device ids of an HCCL rank table in the order of their ranks, as launchers want them: 0,1,2,3,4,5,6,7. Both
forms of the file are read: that of version 1.0 (server_list, device) and the earlier one (group_list, instance_list).
"""
import json

from common import cli


def device_ids(path):
    """[device id of rank 0, of rank 1, ...], ints. ValueError for a file that is no rank table of one machine."""
    with open(path, encoding='utf-8') as file:
        try:
            table = json.load(file)
        except ValueError as error:
            raise ValueError(f'{path}: not a rank table: {error}') from None
    try:
        if 'server_list' in table:
            found = [(int(device['rank_id']), server['server_id'], int(device['device_id']))
                     for server in table['server_list'] for device in server['device']]
        else:
            found = [(int(instance['rank_id']), instance['server_id'], int(device['device_id']))
                     for group in table['group_list'] for instance in group['instance_list']
                     for device in instance['devices']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a rank table: expected server_list with device, or group_list with '
                         f'instance_list, each with rank_id, server_id and device_id ({error!r})') from None
    ranks, machines = sorted(rank for rank, _, _ in found), {machine for _, machine, _ in found}
    if ranks != list(range(len(found))) or not found:
        raise ValueError(f'{path}: the ranks are {ranks}; expected 0, 1, 2 ... without a gap')
    if len(machines) > 1:
        raise ValueError(f'{path}: {len(machines)} machines ({", ".join(sorted(machines))}); a launcher starts the '
                         "ranks of one: use the framework's own launcher on each")
    devices = [device for _, _, device in sorted(found)]
    if min(devices) < 0 or len(set(devices)) < len(devices):
        raise ValueError(f'{path}: the device ids are {devices}; expected each of the machine once, from 0')
    return devices


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument('rank_table_file', help='as hccl_tools.py writes it')
    print(*device_ids(parser.parse_args(argv).rank_table_file), sep=',')


if __name__ == '__main__':
    cli.run(main)
