def handler
  numbers = Enumerator.new do |pieces|
    5.times do |number|
      sleep 0.2 if number.positive?
      pieces << "#{number}\n"
    end
  end
  [200, { 'Content-Type' => 'text/plain' }, numbers]
end
