# shellcheck shell=bash
# What the cluster launchers share: steps that run one after another, or are only printed with --dry_run.
# A launcher sources it with its own arguments.

say() { echo "$(basename "$0"): $*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

# Prints the comments at the head of the script, and ends.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# Prints the arguments, quoted for a shell.
quoted() {
  local word line=''
  for word; do
    [[ $word =~ ^[-A-Za-z0-9_=:,./@+%]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

# need VARIABLE ...: fails unless they are set.
need() {
  local variable
  for variable; do
    [[ -n ${!variable-} ]] || fail "$variable is not set; see the head of $0"
  done
}

# need_number LEAST VARIABLE: fails unless the variable is a whole number, at least LEAST.
need_number() {
  if ! [[ ${!2} =~ ^(0|[1-9][0-9]*)$ ]] || ((${!2} < $1)); then
    fail "$2=${!2}, expected a whole number from $1"
  fi
}

# Fails unless Google Cloud and Kubernetes accept NAME.
need_name() {
  need NAME
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "NAME=$NAME, expected at most 40 of a-z, 0-9 and -, the first one a letter and the last one not a dash"
}

# step TITLE COMMAND [ARGUMENT ...]: runs or prints a step; ends the script if it fails.
step() {
  local title=$1 code=0
  shift
  if $dry_run; then
    printf '# %s\n%s\n' "$title" "$(quoted "$@")"
  else
    say "$title"
    "$@" || code=$?
    ((code == 0)) || fail "the step '$title' failed with exit code $code; nothing was done after it"
  fi
}

dry_run=false
if [[ ${1-} == --dry_run ]]; then dry_run=true && shift; fi
