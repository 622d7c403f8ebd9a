<?php

function handler($context)
{
    return "Hello, world!\n";
}
