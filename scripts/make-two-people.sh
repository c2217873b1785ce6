#!/usr/bin/env bash
# Makes tests/fixtures/two_people.mp4 from a public-domain portrait: two people side by side, moving.
#
#   scripts/make-two-people.sh astronaut.png [OUT.mp4]
#
# The second person is the first one mirrored, smaller and darker. Needs the program ffmpeg.
set -euo pipefail

portrait=${1:?usage: scripts/make-two-people.sh astronaut.png [OUT.mp4]}
out=${2:-$(dirname "$0")/../tests/fixtures/two_people.mp4}

ffmpeg -hide_banner -loglevel error -y -loop 1 -framerate 10 -i "$portrait" \
    -filter_complex "
        color=c=0x8899aa:s=720x360:r=10[wall];
        [0:v]crop=400:400:20:0,scale=360:360,split[one][two];
        [two]hflip,scale=280:280,eq=brightness=-0.12[other];
        [wall][one]overlay=x='10*sin(t*2)':y=0[half];
        [half][other]overlay=x='400-12*t':y='70+8*sin(t*3)',format=yuv420p[v]" \
    -map '[v]' -t 3 -c:v libx264 -preset veryslow -crf 26 -fflags +bitexact -flags:v +bitexact "$out"
