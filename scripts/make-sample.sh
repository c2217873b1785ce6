#!/usr/bin/env bash
# Makes samples/portrait.mp4 from a public-domain portrait and synthesised speech.
#
#   scripts/make-sample.sh astronaut.png [OUT.mp4]
#
# astronaut.png is the file of that name in the Python package scikit-image (skimage/data/).
# Needs the programs ffmpeg and espeak-ng; the result differs in bytes between their versions.
set -euo pipefail

portrait=${1:?usage: scripts/make-sample.sh astronaut.png [OUT.mp4]}
out=${2:-$(dirname "$0")/../samples/portrait.mp4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

espeak-ng -v en-us -s 150 -p 55 -w "$work/speech.wav" \
    "We trained for years, and now we are finally here. I can hardly believe it! Look at that view. I could not be happier."

cat > "$work/speech.srt" <<'SRT'
1
00:00:00,100 --> 00:00:03,100
We trained for years, and now we are finally here.

2
00:00:03,200 --> 00:00:05,000
I can hardly believe it! Look at that view.

3
00:00:05,100 --> 00:00:07,600
I could not be happier.
SRT

# A slow pan and zoom: 8 s of 480x360 at 25 frames a second.
pan="zoompan=z='1.15+0.25*on/200':x='(iw-iw/zoom)*(0.25+0.25*on/200)':y='(ih-ih/zoom)*0.08':d=200:s=480x360:fps=25"
ffmpeg -hide_banner -loglevel error -y \
    -i "$portrait" -i "$work/speech.wav" -i "$work/speech.srt" \
    -filter_complex "[0:v]crop=512:384:0:0,scale=1920:1440,$pan,format=yuv420p[v];[1:a]apad=whole_dur=8[a]" \
    -map '[v]' -map '[a]' -map 2:s -t 8 \
    -c:v libx264 -preset veryslow -crf 24 -bf 2 -g 50 -c:a aac -b:a 48k -ac 1 -ar 22050 -c:s mov_text \
    -metadata:s:s:0 language=eng -fflags +bitexact -flags:v +bitexact -flags:a +bitexact \
    -movflags +faststart "$out"
