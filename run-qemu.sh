#!/usr/bin/env bash
# Boots one image in QEMU and turns its exit port into an exit status. `./run-qemu.sh --help` tells the interface.
# It is also the cargo runner: a program that is not an image (a host binary, a test) is executed as it is.
# shellcheck disable=SC2054 # QEMU's option values have commas
# shellcheck disable=SC2317 # the functions that traps call
set -euo pipefail

readonly DEFAULT_APPLIANCE=fileserver
readonly FIRST_HTTP_PORT=8080 LAST_HTTP_PORT=8179
# Seconds that a guest has for its end after its power button was pressed, and between two presses.
readonly GRACE=10 PRESS_AGAIN=1
# Exit statuses of our own, beside the guest's.
readonly USAGE=2 CANNOT_INSTALL=69 GUEST_RESET=70 QEMU_FAILED=125 TIMED_OUT=124

usage() {
  cat <<'HELP'
Boots an image in QEMU. With no image: builds the default appliance (fileserver) and boots it.

usage: ./run-qemu.sh [--disk IMAGE]... [-m SIZE] [--machine q35|pc] [--net user|tap=IFNAME|none]
                     [--http-port N] [--append "KEY=VALUE ..."] [--timeout SECONDS]
                     [--release|--debug] [--accel kvm|tcg] [IMAGE-ELF] [-- QEMU-ARGS]

  --disk IMAGE      a raw disk, the guest's ld0, ld1, ... in the order given; read-only if the file lacks its w bits.
                    The default appliance gets a small demo FFS disk if none is given
  -m SIZE           memory, as QEMU takes it: MiB, or with a suffix (default 128)
  --machine M       q35 (default) or pc
  --net N           user (default): host port 8080, or the next free one, is the guest's port 80;
                    tap=IFNAME: an existing tap device; none: no network device
  --http-port N     the host port to forward, this one or none
  --append WORDS    the kernel's command line; given twice, the words add up
  --timeout S       end the guest after S seconds
  --release         build the default appliance optimised (default); --debug: the dev profile
  --accel A         kvm or tcg; default: kvm where the machine has it
  IMAGE-ELF         an ELF file with a PVH entry; any other program is executed directly, with the arguments after it
  QEMU-ARGS         handed to QEMU as they are

  ./run-qemu.sh --install-only [TOOL]...   install QEMU and these tools, boot nothing

What is missing is installed (Debian, Ubuntu; as root or by passwordless sudo); where that may not be, the command to run
is printed. The guest's serial console is this terminal. Ctrl-C (and SIGTERM, SIGHUP) presses the guest's power button: the
file server unmounts its disks and powers off. A second Ctrl-C, or 10 s without an end, ends the guest at once.

Exit status: the guest's own where it reports one (isa-debug-exit at port 0xf4), 0 where it powered off, 124 on
timeout, 130 where it was ended at once after Ctrl-C (143: SIGTERM, SIGHUP), 2 for a wrong argument, 69 if something
cannot be installed, 70 if the guest reset itself (as a triple fault does), 125 if QEMU could not run it.
HELP
}

say() { printf 'run-qemu: %s\n' "$*" >&2; }
die() { # STATUS MESSAGE...
  local status=$1
  shift
  say "$@"
  exit "$status"
}

# --- Is this ELF file an image, or a program of the host? -----------------------------------------------------------------

# Unsigned integers of SIZE bytes at OFFSET of FILE, COUNT bytes in all.
elf_words() { # FILE SIZE OFFSET COUNT
  od -An -v -w"$4" -t "u$2" -j "$3" -N "$4" -- "$1" 2>/dev/null
}

# True if FILE is a 64-bit little-endian ELF with the note that QEMU's `-kernel` looks for: name "Xen", type 18
# (XEN_ELFNOTE_PHYS32_ENTRY, Xen public/elfnote.h).
is_image() { # FILE
  local file=$1 header table_offset entry_size entries i segment words
  [[ -f $file && -r $file ]] || return 1
  read -r -a header < <(elf_words "$file" 1 0 6) || return 1
  [[ ${header[*]} == '127 69 76 70 2 1' ]] || return 1
  read -r table_offset < <(elf_words "$file" 8 32 8) || return 1
  read -r entry_size entries < <(elf_words "$file" 2 54 4) || return 1
  ((entry_size == 56 && entries <= 64)) || return 1
  for ((i = 0; i < entries; i++)); do
    # Elf64_Phdr: u32 type, u32 flags, u64 offset, u64 vaddr, u64 paddr, u64 filesz, ...; PT_NOTE is 4.
    read -r -a words < <(elf_words "$file" 4 $((table_offset + i * entry_size)) 4) || return 1
    ((words[0] == 4)) || continue
    read -r -a segment < <(elf_words "$file" 8 $((table_offset + i * entry_size + 8)) 32) || return 1
    ((segment[3] <= 65536)) || continue
    # Elf64_Nhdr: u32 namesz, u32 descsz, u32 type, then the name: "Xen\0" is 0x006e6558.
    read -r -a words < <(elf_words "$file" 4 "${segment[0]}" "${segment[3]}") || continue
    [[ " ${words[*]} " =~ \ 4\ [48]\ 18\ 7234904\  ]] && return 0
  done
  return 1
}

# --- Installing what is missing -------------------------------------------------------------------------------------------

package_of() { # TOOL
  case $1 in
    qemu-system-x86_64) echo qemu-system-x86 ;;
    cc) echo gcc libc6-dev ;;
    ip) echo iproute2 ;;
    xz) echo xz-utils ;;
    ps) echo procps ;;
    nginx) echo nginx-light ;;
    mke2fs | debugfs) echo e2fsprogs ;;
    losetup) echo mount ;;
    sfdisk) echo fdisk ;;
    dig) echo bind9-dnsutils ;;
    pip3) echo python3-pip ;;
    mount.davfs) echo davfs2 ;;
    fuse3/fuse.h) echo libfuse3-dev ;;
    *) echo "$1" ;;
  esac
}

# A program, or a header of a library.
has_tool() {
  case $1 in
    *.h) [[ -f /usr/include/$1 ]] ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v -- "$1" >/dev/null ;;
  esac
}

apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@" </dev/null >&2
}

apt_install() {
  apt_get install -y --no-install-recommends "$@"
}

# Adds the machine's own Debian source once more with the suite CODENAME-backports.
enable_backports() { # CODENAME
  local suite=$1-backports file found added
  for file in /etc/apt/sources.list.d/*.sources; do
    [[ -f $file ]] || continue
    found=$(awk -v RS= -v codename="$1" '
      { n = split($0, line, "\n"); wanted = 0; out = ""
        for (i = 1; i <= n; i++) {
          if (line[i] ~ /^#/) continue
          if (line[i] ~ /^Suites:/) {
            if ((line[i] " ") ~ ("[ \t]" codename "[ \t]")) wanted = 1
            line[i] = "Suites: " codename "-backports"
          }
          out = out line[i] "\n"
        }
        if (wanted && out ~ /(^|\n)Types:[^\n]*deb/) { printf "%s", out; exit } }' "$file")
    [[ -n $found ]] && added=/etc/apt/sources.list.d/$suite.sources && break
  done
  if [[ -z ${found:-} ]]; then
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
      [[ -f $file ]] || continue
      found=$(awk -v codename="$1" '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i == codename) { $i = codename "-backports"; print; exit } }' "$file")
      [[ -n $found ]] && added=/etc/apt/sources.list.d/$suite.list && break
    done
  fi
  [[ -n ${found:-} ]] || return 1
  printf '%s\n' "$found" | "${as_root[@]}" tee "$added" >/dev/null
  apt_get update && return 0
  "${as_root[@]}" rm -f "$added"
  return 1
}

# Where the machine already has backports' qemu-utils, the QEMU of the plain suite may not go beside it.
install_qemu_from_backports() {
  local codename
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  [[ -n $codename ]] || return 1
  say "trying QEMU from $codename-backports"
  enable_backports "$codename" && apt_install -t "$codename-backports" qemu-system-x86
}

need() { # TOOL...
  local tool missing=() packages=()
  for tool; do has_tool "$tool" || missing+=("$tool"); done
  ((${#missing[@]})) || return 0
  for tool in "${missing[@]}"; do
    # shellcheck disable=SC2207 # package names have no spaces; one tool may be two packages
    packages+=($(package_of "$tool"))
  done
  local command="apt-get install -y --no-install-recommends ${packages[*]}"
  as_root=()
  if ! has_tool apt-get; then
    die $CANNOT_INSTALL "missing: ${missing[*]}. Only Debian and Ubuntu are known here; there it would be: $command"
  elif ((EUID != 0)); then
    sudo -n true 2>/dev/null || die $CANNOT_INSTALL "missing: ${missing[*]}. Run: sudo $command"
    as_root=(sudo -n)
  fi
  say "installing ${packages[*]}"
  for tool in "${missing[@]}"; do
    # shellcheck disable=SC2207
    packages=($(package_of "$tool"))
    apt_install "${packages[@]}" || { apt_get update && apt_install "${packages[@]}"; } ||
      { [[ $tool == qemu-system-x86_64 ]] && install_qemu_from_backports; } ||
      die $CANNOT_INSTALL "could not install ${packages[*]}. By hand: sudo apt-get update && sudo $command"
  done
}

need_cargo() {
  has_tool cargo || PATH=$PATH:$HOME/.cargo/bin
  has_tool cargo || die $CANNOT_INSTALL "missing: cargo. Install Rust 1.95 or later with rustup, then run this again"
  need cc
}

# --- What to boot ---------------------------------------------------------------------------------------------------------

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly root

build_default_appliance() {
  need_cargo
  local flags=(--release) messages
  [[ $profile == debug ]] && flags=()
  messages=$(cd -- "$root" && cargo build "${flags[@]}" -p "$DEFAULT_APPLIANCE" --message-format json-render-diagnostics)
  image=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | tail -n 1)
  [[ -n $image ]] || die 1 "cargo built no executable for $DEFAULT_APPLIANCE"
}

# A small FFS disk with something to look at, made once and kept beside the image.
make_demo_disk() {
  local folder disk tree
  folder=$(dirname -- "$image")
  disk=$folder/demo.ffs
  if [[ ! -f $disk || ${BASH_SOURCE[0]} -nt $disk ]]; then
    need makefs
    tree=$(mktemp -d "$folder/demo.XXXXXX")
    mkdir -p "$tree/documents/a folder with spaces/deeper/and deeper" "$tree/numbers"
    cp -- "$root/README.md" "$root/ARCHITECTURE.md" "$root/LICENSE" "$tree/documents/" 2>/dev/null || true
    echo 'Served from an FFS disk by a rump kernel, with no operating system under it.' >"$tree/hello.txt"
    echo 'The end of a long way down.' >"$tree/documents/a folder with spaces/deeper/and deeper/bottom.txt"
    seq 1 200000 >"$tree/numbers/to-200000.txt"
    seq -f 'line %.0f' 1 1000 >"$tree/numbers/lines.txt"
    truncate -s 8M "$tree/numbers/8-MiB-of-nothing.bin"
    ln -s hello.txt "$tree/a-symlink.txt"
    cat >"$tree/page.html" <<'HTML'
<!doctype html><meta charset="utf-8"><title>A page</title>
<style>body{font:1.1rem/1.6 system-ui;margin:4rem auto;max-width:36rem;color-scheme:light dark}</style>
<h1>A page from an FFS disk</h1><p>Back to <a href="/">the folder</a>.
HTML
    # Room, in space and in inodes, for what a client puts there.
    makefs -t ffs -M 48m -f 1000 -o version=2 "$disk.new" "$tree" >/dev/null
    rm -rf -- "$tree"
    mv -- "$disk.new" "$disk"
  fi
  disks+=("$disk")
}

# --- The QEMU line --------------------------------------------------------------------------------------------------------

# Option values of QEMU: a comma is written twice.
quoted() { printf '%s' "${1//,/,,}"; }

choose_accel() {
  if grep -qwE 'vmx|svm' /proc/cpuinfo && [[ -w /dev/kvm ]]; then echo kvm; else echo tcg; fi
}

add_disk() { # NUMBER FILE
  local number=$1 file=$2 cache=none options
  [[ -r $file ]] || die $USAGE "no such disk: $file"
  dd if="$file" of=/dev/null bs=4096 count=1 iflag=direct status=none 2>/dev/null || cache=writeback
  options="if=none,id=disk$number,file=$(quoted "$file"),format=raw,cache=$cache,discard=unmap"
  [[ $(stat -L -c %A -- "$file") == *w* ]] || options+=,readonly=on
  qemu+=(-drive "$options" -device "virtio-blk-pci,drive=disk$number")
}

port_is_taken() { # PORT
  # A listening socket in /proc/net/tcp: "  0: 00000000:1F90 00000000:0000 0A ...".
  grep -qsE "^ *[0-9]+: [0-9A-F]+:$(printf %04X "$1") [0-9A-F:]+ 0A " /proc/net/tcp /proc/net/tcp6
}

choose_port() {
  local port
  if [[ -n $http_port ]]; then
    ! port_is_taken "$http_port" || die $USAGE "port $http_port is taken"
    return
  fi
  for ((port = FIRST_HTTP_PORT; port <= LAST_HTTP_PORT; port++)); do
    port_is_taken "$port" || { http_port=$port && return; }
  done
  die 1 "no free port from $FIRST_HTTP_PORT to $LAST_HTTP_PORT"
}

add_network() {
  # No ROM: nothing boots from the network, and the firmware need not look at it.
  local device=virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=
  case $net in
    none) ;;
    user)
      choose_port
      answers_at=127.0.0.1:$http_port
      qemu+=(-netdev "user,id=net0,hostfwd=tcp:127.0.0.1:$http_port-:80" -device "$device")
      ;;
    tap=?*)
      [[ " $append " =~ \ ip=([0-9.]+)/ ]] && answers_at=${BASH_REMATCH[1]}:80
      qemu+=(-netdev "tap,id=net0,ifname=$(quoted "${net#tap=}"),script=no,downscript=no" -device "$device")
      ;;
    *) die $USAGE "--net is user, tap=IFNAME or none, not '$net'" ;;
  esac
}

# Says where the guest can be reached, once it answers. Ends with QEMU, so also where this script is killed.
announce() { # ADDRESS:PORT
  local host=${1%:*} port=${1##*:} line
  while sleep 0.1 && [[ -e /proc/$qemu_pid/exe ]]; do
    line=$(
      exec 2>/dev/null
      exec 3<>"/dev/tcp/$host/$port" || exit 1
      printf 'HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$host" >&3
      IFS= read -r -t 2 line <&3 && printf '%s' "$line"
    ) || continue
    [[ $line == HTTP/* ]] || continue
    [[ $port == 80 ]] && port= || port=:$port
    say "answers at http://$host$port/"
    return
  done
}

# --- Running it -----------------------------------------------------------------------------------------------------------

# What is started behind these words ends with this script, even if that is killed.
readonly dies_with_parent=(setpriv --pdeathsig KILL)

scratch='' qemu_pid='' announcer='' keyboard='' terminal='' interrupted='' killed=''

clean_up() {
  [[ -z $announcer ]] || kill "$announcer" 2>/dev/null || true
  [[ -z $keyboard ]] || kill "$keyboard" 2>/dev/null || true
  [[ -z $qemu_pid ]] || kill -KILL "$qemu_pid" 2>/dev/null || true
  [[ -z $terminal ]] || stty "$terminal" 2>/dev/null || true
  [[ -z $scratch ]] || rm -rf -- "$scratch"
}

interrupt() { # STATUS
  if [[ -n $interrupted ]]; then
    end_at_once
  else
    interrupted=$1 give_up_at=$((SECONDS + GRACE))
    say 'pressing the power button; once more (Ctrl-C) ends the guest at once'
  fi
}

end_at_once() {
  killed=yes
  [[ -z $qemu_pid ]] || kill -TERM "$qemu_pid" 2>/dev/null || true
}

# Once and again: a guest that is just booting does not look at its button yet.
press_power_button() {
  local piece
  if ((SECONDS >= give_up_at)); then
    say "no end within $GRACE s"
    end_at_once
  fi
  echo '{"execute":"system_powerdown"}' >&7
  # What the monitor tells is a reason to look again at once.
  local until=$((SECONDS + PRESS_AGAIN))
  while ((SECONDS <= until)) && kill -0 "$qemu_pid" 2>/dev/null; do
    IFS= read -r -t 0.1 piece <&8 || true # it has a part of a line, perhaps
    told+=$piece
  done
}

# QEMU's exit status does not tell a guest that powered off from one that reset, nor its own failure (1) from the guest's
# status 0 ((0 << 1) | 1): its monitor does.
status_of() { # QEMU-STATUS MONITOR-OUTPUT
  local status=$1 told=$2
  if [[ -n $killed ]]; then
    echo "$interrupted"
  elif ((status == TIMED_OUT || status == 137)); then
    say "ended after $timeout s"
    echo $TIMED_OUT
  elif [[ $told != *'"return"'* ]]; then
    say "QEMU did not start (its status: $status)"
    echo $QEMU_FAILED
  elif ((status % 2 == 1)); then
    echo $((status >> 1))
  elif [[ $told == *'"reason": "guest-reset"'* ]]; then
    say 'the guest reset itself'
    echo $GUEST_RESET
  elif ((status != 0)); then
    say "QEMU ended with status $status"
    echo $QEMU_FAILED
  else
    echo 0
  fi
}

run() {
  local status=0 told='' piece
  scratch=$(mktemp -d)
  trap clean_up EXIT
  trap 'interrupt 130' INT
  trap 'interrupt 143' TERM HUP
  mkfifo "$scratch/monitor.in" "$scratch/monitor.out" "$scratch/keyboard"
  exec 7<>"$scratch/monitor.in" 8<>"$scratch/monitor.out" 9<>"$scratch/keyboard"
  echo '{"execute":"qmp_capabilities"}' >&7
  # The guest starts when the monitor has answered: the end of one that is done at once could not be told from QEMU's own failure.
  # Who stops it himself, as for a debugger, starts it himself.
  [[ " ${qemu_args[*]} " == *' -S '* ]] || echo '{"execute":"cont"}' >&7
  qemu+=(-S -chardev "pipe,id=monitor,path=$scratch/monitor" -mon chardev=monitor,mode=control)
  local bounded=()
  [[ -z $timeout ]] || bounded=(timeout --foreground --kill-after=5 "$timeout" "${dies_with_parent[@]}")
  if [[ -t 0 ]]; then
    terminal=$(stty -g)
    # Each key as it is typed, to the guest; but Ctrl-C makes a signal.
    stty -icanon -echo -iexten -icrnl -ixon min 1 time 0
    # Opened anew: QEMU makes what it shares with us not block, and whoever reads that gets EAGAIN.
    exec 6<"/proc/$$/fd/0"
  else
    exec 6<&0
  fi
  # In a session of its own: a signal to this terminal's or this script's group is not for QEMU, which would end at once. In the
  # background, so that a signal ends the wait.
  setsid "${dies_with_parent[@]}" "${bounded[@]}" "${qemu[@]}" "${qemu_args[@]}" <&9 6<&- 7>&- 8>&- 9>&- &
  qemu_pid=$!
  "${dies_with_parent[@]}" cat <&6 >&9 7>&- 8>&- &
  keyboard=$!
  if [[ -n $answers_at ]]; then
    announce "$answers_at" </dev/null 7>&- 8>&- 9>&- &
    announcer=$!
  fi
  while kill -0 "$qemu_pid" 2>/dev/null; do
    status=0
    if [[ -n $interrupted && -z $killed ]]; then press_power_button; else wait "$qemu_pid" || status=$?; fi
  done
  status=0
  wait "$qemu_pid" || status=$?
  qemu_pid=''
  # All that the monitor told: now that nobody can write there any more, it has an end. A wait of some length could be too short.
  exec 5<"$scratch/monitor.out" 8<&-
  while IFS= read -r piece <&5 || [[ -n $piece ]]; do told+=$piece; done
  exit "$(status_of "$status" "$told")"
}

# A program of the host takes everything after it, whatever it looks like.
if (($# > 0)) && [[ $1 != -* && -f $1 ]] && ! is_image "$1"; then
  [[ -x $1 ]] || die $USAGE "neither an image with a PVH entry nor a program: $1"
  exec "$@"
fi

disks=() append='' memory=128 machine=q35 net=user http_port='' timeout='' profile=release accel='' image='' qemu_args=()
while (($#)); do
  if [[ $1 == --?*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
  case $1 in
    --disk | -m | --machine | --net | --http-port | --append | --timeout | --accel) (($# >= 2)) || die $USAGE "$1 wants a value" ;;
  esac
  case $1 in
    --disk) disks+=("$2") && shift ;;
    -m) memory=$2 && shift ;;
    --machine) machine=$2 && shift ;;
    --net) net=$2 && shift ;;
    --http-port) http_port=$2 && shift ;;
    --append) append+="${append:+ }$2" && shift ;;
    --timeout) timeout=$2 && shift ;;
    --accel) accel=$2 && shift ;;
    --release | --debug) profile=${1#--} ;;
    --install-only) shift && need qemu-system-x86_64 "$@" && exit 0 ;;
    -h | --help) usage && exit 0 ;;
    --) shift && qemu_args=("$@") && break ;;
    -*) usage >&2 && die $USAGE "unknown option $1" ;;
    *)
      [[ -z $image ]] || die $USAGE "two images: $image and $1"
      is_image "$1" || die $USAGE "not an image with a PVH entry: $1"
      image=$1
      ;;
  esac
  shift
done
[[ $machine == q35 || $machine == pc ]] || die $USAGE "--machine is q35 or pc, not '$machine'"
[[ $accel == '' || $accel == kvm || $accel == tcg ]] || die $USAGE "--accel is kvm or tcg, not '$accel'"
[[ $http_port =~ ^([1-9][0-9]{0,4})?$ && ${http_port:-1} -lt 65536 ]] || die $USAGE "--http-port wants 1 to 65535, not '$http_port'"
[[ $timeout =~ ^([0-9]+(\.[0-9]+)?)?$ ]] || die $USAGE "--timeout wants seconds, not '$timeout'"
[[ $memory =~ ^[1-9][0-9]*[kKmMgG]?$ ]] || die $USAGE "-m wants a size, not '$memory'"

need qemu-system-x86_64
PATH=$PATH:/usr/sbin:/sbin
given_image=$image
[[ -n $image ]] || build_default_appliance
if ((${#disks[@]} == 0)) && [[ -z $given_image || ${CARGO_PKG_NAME:-} == "$DEFAULT_APPLIANCE" ]]; then make_demo_disk; fi

answers_at=''
qemu=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
  -machine "$machine" -accel "${accel:=$(choose_accel)}" -cpu max -m "$memory"
  -kernel "$image" -append "$append"
  -chardev stdio,id=console,signal=on -serial chardev:console
  -device isa-debug-exit,iobase=0xf4,iosize=0x04
  -object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0)
# Older QEMUs leave the guest's memory barriers out of what they translate if there can be one processor only; but devices run in threads of
# their own: now and then a queue's notification or interrupt was lost. (QEMU tcg/tcg-op.c, tcg_gen_mb.)
[[ $accel != tcg ]] || qemu+=(-smp 1,maxcpus=2)
for ((i = 0; i < ${#disks[@]}; i++)); do add_disk "$i" "${disks[i]}"; done
add_network
run
