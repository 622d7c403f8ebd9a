raise 'no such thing'
