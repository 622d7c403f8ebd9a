<?php

function handler($context)
{
    throw new Exception("this call fails");
}
