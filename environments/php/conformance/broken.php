<?php

throw new Exception("no such thing");

function handler($context)
{
}
