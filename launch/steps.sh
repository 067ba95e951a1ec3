# shellcheck shell=bash
# What the launchers of clusters share: steps that are run one after another, or with --dry_run only printed.
# To be sourced, with the arguments of the script.

say() { echo "$(basename "$0"): $*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

# Prints the comments at the head of the script.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# Prints the arguments as one would type them.
quoted() {
  local word line=''
  for word; do
    [[ $word =~ ^[-A-Za-z0-9_=:,./@+%]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  echo "$line"
}

# Fails unless the variables of the given names are set.
need() {
  local variable
  for variable; do
    [[ -n ${!variable-} ]] || fail "$variable is not set; the head of $0 says what it is"
  done
}

# need_number LEAST VARIABLE: fails unless the variable is a whole number, and no smaller one.
need_number() {
  if ! [[ ${!2} =~ ^(0|[1-9][0-9]*)$ ]] || ((${!2} < $1)); then
    fail "$2=${!2}, expected a whole number from $1"
  fi
}

# Fails unless NAME is one that Google Cloud and Kubernetes take.
need_name() {
  need NAME
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "NAME=$NAME, expected a small letter, then at most 39 small letters, digits and dashes, no dash at the end"
}

# step TITLE COMMAND [ARGUMENT ...]: runs a step, or prints it; one that fails is the last.
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
