# shellcheck shell=bash
# What the suites of both generations of kafka-python share.
sources=$home/kafka_python-$kafka_python
python=$home/python/bin/python

build() {
  if [[ ! -x $python ]]; then
    python3 -m venv python
    "$python" -m pip install --quiet pytest pytest-mock pytest-timeout crc32c lz4 python-snappy zstandard
  fi
  if [[ ! -f $sources/test/service.py ]]; then
    "$python" -m pip download --quiet --no-deps --no-binary :all: "kafka-python==$kafka_python"
    tar -xzf "kafka_python-$kafka_python.tar.gz"
    # Two files of the tests are not in the sdist. Of the second only this is used where there is a broker already.
    : >"$sources/test/__init__.py"
    cat >"$sources/test/service.py" <<'PYTHON'
class ExternalService:
    def __init__(self, host, port):
        self.host = host
        self.port = port


class SpawnedService:
    def __init__(self, *arguments, **options):
        raise RuntimeError("there is a broker already")
PYTHON
  fi
}

# pytest, from the folder of the sources, whose tests are named below test/integration.
tests() {
  # The tests want a folder of Kafka's to be there, and do not look into it.
  (cd "$sources" && KAFKA_URI=kafka://$kafka KAFKA_VERSION=$kafka_version KAFKA_ROOT=$sources \
    "$python" -m pytest -p no:cacheprovider -W ignore --timeout=60 --timeout-method=signal "$@")
}

names() { tests --collect-only -q test/integration | sed -n 's|^test/integration/||p'; }

# Runs the tests whose names are the lines of its input; the log has what they print if they fail.
pass() {
  local wanted
  mapfile -t wanted < <(sed 's|^|test/integration/|')
  [[ ${#wanted[@]} = 0 ]] || tests -q -rA --tb=short "${wanted[@]}" >>tests.log 2>&1 || true
}

run() {
  serve
  : >tests.log
  pass <"$1"
  local try
  for try in 2 3 4 5; do
    failed "$1" | grep "${again:-^$}" >again || break
    echo "try $try of: $(tr '\n' ' ' <again)" >&2
    pass <again
  done
  passed | sed 's/^/passed /'
  failed "$1" | sed "s|^|failed |; s|\$|, see $home/tests.log|"
}

# The tests that have passed. XPASS: the suite thought that this one would fail.
passed() { sed -nE 's#^X?PASS(ED)? test/integration/([^ ]*).*#\2#p' tests.log | sort -u; }

# The tests of a list that have not passed.
failed() { passed | grep -vxF -f - "$1" || true; }
