#!/bin/sh
printf 'Content-Type: text/plain\n\n'
for number in 0 1 2 3 4; do
    echo "$number"
    sleep 0.2
done
