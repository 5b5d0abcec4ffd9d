#!/usr/bin/env bash
# REDS from the network to sets/*.json, in four steps; again where it was cut off: bash scripts/prepare_reds_dataset.sh
. "$(dirname "$0")/../../common/launch.sh"
positional data_dir 'folder for the archives and all that is made of them; by default data/reds' path
option server snu 'where to download from: snu or google'
option archives train_sharp,train_sharp_bicubic,val_sharp,val_sharp_bicubic 'what to download and unpack'
switch no_download 'what is needed is unpacked there already'
switch copy 'copy the frames into images/ instead of linking them'
parse_options "$@"
data_dir=${data_dir:-$PWD/data/reds}
if [[ -z $no_download ]]; then
  # shellcheck disable=SC2086  # one flag for each
  run "$python" scripts/download_REDS.py --root_dir="$data_dir" --server="$server" --unzip --${archives//,/ --} || exit
  echo '[INFO] REDS dataset downloaded'
fi
run "$python" scripts/regroup_reds_dataset.py "$data_dir" ${copy:+--copy} || exit
echo '[INFO] REDS dataset regrouped'
run "$python" scripts/make_reds_dataset.py "$data_dir" || exit
echo '[INFO] REDS dataset prepared'
