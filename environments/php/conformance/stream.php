<?php

function handler($context)
{
    for ($number = 0; $number < 5; $number++) {
        if ($number > 0) {
            usleep(200_000);
        }
        yield "$number\n";
    }
}
